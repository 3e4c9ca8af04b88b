# What makes a root filesystem from nothing, which no recipe can say: a derivation of `builtin:<builder>` with these attributes.
builder: attrs: derivation ({
  system = "builtin";
  builder = "builtin:${builder}";
  __structuredAttrs = true;
  __contentAddressed = true;
  outputHashMode = "rootfs";
  outputHashAlgo = "blake3";
  epoch = 1700000000;
} // attrs)
