[
  (builtins.replaceStrings [ "" ] [ "-" ] "ab")
  (builtins.replaceStrings [ "ab" "a" ] [ "1" "2" ] "aab")
  (builtins.replaceStrings [ "x" ] [ (throw "not used") ] "ab")
]
