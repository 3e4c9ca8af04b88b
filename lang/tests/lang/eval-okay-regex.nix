[
  (builtins.match "([[:alpha:]]+)([0-9]*)" "abc12")
  (builtins.match "a" "ab")
  (builtins.match "(a?)*" "aa")
  (builtins.match "((a)|(b))*" "ab")
  (builtins.match "[]a-]+" "a-]")
  (builtins.match "[[.hyphen.]x]+" "-x-")
  (builtins.split "(,)|;" "a,b;c")
  (builtins.split "x*" "axb")
]
