[ (./a/../b) (/. + "/x/./y") (toString ./.) (baseNameOf "/a/b/") (dirOf /a/b) (dirOf "a") (baseNameOf ./c) ]
