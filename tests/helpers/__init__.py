"""What tests share: networks, searches, and the checks of both."""
