"""The book's machinery: setting up, executing the chapters, printing and checking the pages."""
