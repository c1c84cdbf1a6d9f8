"""Real faults against a real host, from outside: systemctl, kill, journalctl and gracectl, never graced's own code."""
