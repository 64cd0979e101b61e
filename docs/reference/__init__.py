"""Reference pages made from the code: a module per page, whose `page()` returns its Markdown."""
