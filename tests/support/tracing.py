"""The arguments of a session of pytest in which allocations are traced."""

# Hypothesis' plugin imports all of Hypothesis at the end of a session. That takes 20 s where allocations are traced.
UNTRACED = ("-p", "no:hypothesispytest")
