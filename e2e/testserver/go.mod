module testserver

go 1.26
