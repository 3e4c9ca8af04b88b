builtins.fromTOML ''
  int = 1_000
  hex = 0xff
  float = 6.5e2
  text = "a\tb"
  raw = 'c:\d'
  list = [ 1, [ 2, "x" ] ]
  dotted.key.here = true
  inline = { a = 1, b.c = 2 }
  [table."quoted name"]
  x = 1
  [[array]]
  n = 1
  [[array]]
  n = 2
''
