"""What training needs beside the model: so far, its losses."""
