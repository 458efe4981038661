"""What breaks around an operator, with real processes."""

import pytest

pytest.register_assert_rewrite("tests.chaos.lives")
