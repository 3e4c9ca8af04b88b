[
  (({ a, b ? a + 1, ... }@all: [ a b (all ? b) ]) { a = 1; c = 3; })
  (builtins.functionArgs ({ a, b ? 1 }: a))
  ({ __functor = self: x: self.n + x; n = 1; } 2)
  (builtins.functionArgs builtins.map)
]
