# Escapes, indentation, interpolation.
let x = "X"; in [
  "a\tb\\\"\${x}$${x}"
  ''
    one
      two ${x}
    ''${x} ''' ''\n
  ''
  ''inline''
  "${x}${"y"}"
  http://mirror.example/a?b=c
]
