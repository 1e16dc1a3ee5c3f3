from clipjax.config import UsageError, UserError, did_you_mean


def test_the_nearest_name_is_said_and_a_far_one_is_not():
    assert (
        did_you_mean("weight_decy", ["warmup", "weight_decay"]) == " Did you mean 'weight_decay'?"
    )
    assert did_you_mean("zzz", ["warmup", "weight_decay"]) == ""
    assert did_you_mean("x", []) == ""


def test_a_usage_error_is_a_user_error_with_the_status_of_usage():
    assert issubclass(UsageError, UserError)
    assert (UserError.exit_status, UsageError.exit_status) == (1, 2)
