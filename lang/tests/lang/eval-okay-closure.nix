map (x: x.key) (builtins.genericClosure {
  startSet = [ { key = 1; } ];
  operator = x: if x.key > 20 then [ ] else [ { key = x.key * 2; } { key = x.key * 3; } ];
})
