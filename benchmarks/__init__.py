"""What measures speed and accuracy, side by side; results/ holds what it measured."""
