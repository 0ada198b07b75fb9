"""The torch wing: verbs for modules; front end, back end, gates and budget below."""
