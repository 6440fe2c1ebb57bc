"""Tables, figures and the site."""
