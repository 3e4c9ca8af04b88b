[
  (toString [ 1 [ 2 [ ] ] null true false "" ])
  (toString { __toString = self: { outPath = "nested"; }; })
  "${{ outPath = "set"; }}"
  ("a" + { __toString = self: "b"; })
  (toString 1.5)
  (toString (-0.0))
]
