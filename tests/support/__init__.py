"""What tests share: real servers, started by the tests themselves."""
