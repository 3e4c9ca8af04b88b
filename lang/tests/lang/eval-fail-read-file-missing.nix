builtins.readFile ./missing.txt
