"""What the ReFrame checks share. The only package that imports ReFrame."""
