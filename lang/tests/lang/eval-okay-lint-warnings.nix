builtins.typeOf https://example.org/x
+ builtins.typeOf not/dotted
+ builtins.typeOf /etc
