"""What an export says to those who receive it: bill of materials, provenance, training rows, hashes, signature."""
