"""What all extension folders share: the C++ header and the checks of the tools that compile them."""
