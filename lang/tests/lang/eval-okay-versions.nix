[
  (builtins.compareVersions "1.0pre1" "1.0")
  (builtins.compareVersions "2.10" "2.9")
  (builtins.splitVersion "1.2pre3-x")
  (builtins.parseDrvName "python-mode-1.2")
]
