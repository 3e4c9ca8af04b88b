[
  (1 |> builtins.add 2 |> toString)
  (toString <| builtins.add 1 <| 2)
  (1 + 1 |> (x: x * 10))
]
