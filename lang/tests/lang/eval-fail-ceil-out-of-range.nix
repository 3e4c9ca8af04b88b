# The float beside the largest integer is one more than that.
builtins.ceil 9223372036854775807.0
