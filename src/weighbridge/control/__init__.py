"""The reconciler loop and its wake-up; no domain words."""
