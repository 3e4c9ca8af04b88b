builtins.fromJSON "[ 01 ]"
