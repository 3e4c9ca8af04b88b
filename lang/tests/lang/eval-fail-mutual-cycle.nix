let
  ping = pong + 1;
  pong = ping + 1;
in
ping
