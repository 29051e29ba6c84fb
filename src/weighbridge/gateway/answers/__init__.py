"""Engine answers: parsed, proven and written anew for the caller (G1, G2)."""
