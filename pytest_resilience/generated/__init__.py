"""Generated tests: tests with `@given` and the fixture `resilience`, which play what Hypothesis draws on real systems.

Real systems are not deterministic, and Hypothesis requires that a test is. So a verdict is found by several plays where one
does not decide, and remembered by the drawn arguments. `search.py` has the rules, without Hypothesis and pytest.
`hypothesis_test.py` connects them with Hypothesis.
"""
