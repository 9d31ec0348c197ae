from dycoke_lab.cli import main

main()
