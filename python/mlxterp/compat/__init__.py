"""Other tools' ways into a model, and their laxer habits: mlxterp 0.1 (`v01`),
TransformerLens, nnterp. Only the package's root and `InterpretableModel` import
from here."""
