"""The loop at work: led by one controller at a time, carried out command by command, seen from outside."""
