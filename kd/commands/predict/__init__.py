"""``kd predict``: classes of images, arrays and table rows."""
