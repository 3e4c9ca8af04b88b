builtins.add 1 "two"
