"""One installation: control planes, gateway hosts, and what they share."""
