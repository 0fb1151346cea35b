"""What editors make of the JSON Schema: asked of the language server that they run, and of four validators."""
