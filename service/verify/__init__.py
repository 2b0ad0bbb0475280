"""`dub5 verify`: asks a deployed service from outside, and says what holds, fails, or is not there."""
