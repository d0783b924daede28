"""diagnose: six checks of a gateway and its workers from outside, each with the cause and the fix."""
