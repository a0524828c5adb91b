// Package agentv1 is the gRPC interface of the node agent: its devices and the examination of its machine.
package agentv1

//go:generate protoc --plugin=protoc-gen-go=../../../build/tools/protoc-gen-go --plugin=protoc-gen-go-grpc=../../../build/tools/protoc-gen-go-grpc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent.proto
