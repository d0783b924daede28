"""The bundled model, its record and the script that makes both."""
