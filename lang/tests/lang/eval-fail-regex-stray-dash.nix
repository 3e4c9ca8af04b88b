builtins.match "[a-c-e]" "d"
