"""What all extension folders share: the C++ headers, the checks of the tools that compile them, how threads wait."""
