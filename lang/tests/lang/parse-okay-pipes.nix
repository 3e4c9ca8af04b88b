f: g: 1 |> f |> g 2
