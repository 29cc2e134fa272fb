"""From contexts to answers: by an endpoint, by batch files, or by rule."""
