{ a = "text;
}
