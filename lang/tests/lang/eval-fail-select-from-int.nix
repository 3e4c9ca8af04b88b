let port = 80; in port.number
