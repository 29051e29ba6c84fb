"""Routes of usage: reports for orgs and the operator, and the metrics of the last minute."""
