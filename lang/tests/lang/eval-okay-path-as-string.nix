# A path is copied to the store wherever its text is looked at, and not where a part of the path itself is.
let
  text = builtins.substring 0 100 ./data.txt;
in
[
  (builtins.stringLength ./data.txt - builtins.stringLength "data.txt")
  (builtins.substring 0 11 ./data.txt)
  (builtins.stringLength text == builtins.stringLength "${./data.txt}")
  (builtins.hasContext text)
  (builtins.stringLength (toString ./data.txt))
  (builtins.baseNameOf ./data.txt)
]
