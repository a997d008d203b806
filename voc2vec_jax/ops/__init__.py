"""Operations that are written for the speed of one platform; nothing of the project is needed."""
