builtins.readFile "data.txt"
